"""`python -m magic_rl`: the `magic-rl` command, for environments whose scripts are not on the path."""

from magic_rl.cli.main import app

if __name__ == "__main__":
    app(prog_name="magic-rl")
