pytest_plugins = ["tests.servers", "tests.fixtures", "tests.stack", "tests.service.doors"]
