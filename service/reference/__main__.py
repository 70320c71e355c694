"""Print the reference of the API as Markdown: `python -m service.reference > docs/reference.md`."""

import sys

from service.app import create_app
from service.reference.markdown import reference
from service.settings import Settings

if __name__ == "__main__":
    sys.stdout.write(reference(create_app(Settings()).openapi()))
