import os

os.environ["ROBUSTREPS_WORKER_NICE"] = "0"  # the machine may be busy, and a worker that gives way to all of it late
pytest_plugins = ["tests.servers", "tests.fixtures", "tests.stack", "tests.service.doors"]
