"""`python -m registry_client.cli` is `registryctl`."""

from registry_client.cli.app import main

if __name__ == "__main__":
    main(prog_name="registryctl")
