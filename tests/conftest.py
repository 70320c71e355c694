import os

os.environ.setdefault("ROBUSTREPS_AUTH", "off")  # who tests something else needs no keys; test_auth.py has them on
os.environ["ROBUSTREPS_WORKER_NICE"] = "0"  # the machine may be busy, and a worker that gives way to all of it late
# Threads of torch wait for each other by turning, which on cores that others use too takes many times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
pytest_plugins = ["tests.servers", "tests.fixtures", "tests.stack", "tests.service.doors", "tests.service.tenancy"]
