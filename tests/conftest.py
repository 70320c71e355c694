pytest_plugins = ["tests.servers", "tests.fixtures", "tests.stack"]
