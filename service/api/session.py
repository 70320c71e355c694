"""/v1/session: a browser signs in by a key, and out again; and who it is that asks."""

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from service import schemas
from service.access import gate, sessions
from service.access.gate import PRINCIPAL, Verifier
from service.access.principal import EVERYBODY, Principal, Scope
from service.api.context import Ctx
from service.errors import Forbidden, Unauthorized

router = APIRouter(prefix="/v1/session", tags=["session"])


class SignIn(schemas.Request):
    """What a session is made for."""

    key: str = Field(
        min_length=1, max_length=200, description="A key, or what stands after #token= in a link of `robustreps serve`"
    )


class Session(BaseModel):
    """Who asks."""

    tenant: str
    key: str | None = Field(description="The public part of the key; null where the service asks for none")
    scopes: list[Scope]


@router.post("")
def sign_in(body: SignIn, request: Request, response: Response, ctx: Ctx) -> Session:
    """Make a session, which a cookie holds that no script reads; it ends with the key, and after some hours."""
    verifier: Verifier | None = request.app.state.verifier
    if verifier is None:
        return _shown(EVERYBODY)
    if not gate.own(request.headers):
        raise Forbidden(f"a browser signs in from the service's own page, with the header {gate.HEADER}")
    address = gate.address_of(request.scope)
    verifier.heed(address)
    seconds = ctx.settings.session_seconds
    with verifier.db.transaction() as session:
        entered = sessions.enter(session, body.key, seconds, verifier.secret)
    if entered is None:
        verifier.heed(address, wrong=True)
        raise Unauthorized("this opens nothing here: it is mistyped, was used before, has expired or was revoked")
    secure = request.url.scheme == "https"
    response.set_cookie(
        gate.cookie_name(request.headers), entered.text, int(seconds), httponly=True, samesite="strict", secure=secure
    )
    response.headers["Cache-Control"] = "no-store"
    return _shown(entered.principal)


@router.get("")
def get_session(request: Request) -> Session:
    """Whose key or session it is."""
    return _shown(request.scope[PRINCIPAL])


@router.delete("", status_code=204)
def sign_out(request: Request, response: Response) -> None:
    """End the session of the cookie; other processes may take 5 seconds to know."""
    verifier: Verifier | None = request.app.state.verifier
    text = gate.cookie(request.headers)
    if verifier is not None and text:
        with verifier.db.transaction() as session:
            sessions.end(session, text, verifier.secret)
        verifier.forget(text)
    response.delete_cookie(gate.cookie_name(request.headers), httponly=True, samesite="strict")


def _shown(principal: Principal) -> Session:
    return Session(tenant=principal.tenant, key=principal.key, scopes=sorted(principal.scopes))
