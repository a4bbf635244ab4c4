"""`fewlabel` that knows the tiny recipe, for tests that need processes of their own."""

from fewlabel.cli import main
from fewlabel.recipes import RECIPES

if __name__ == "__main__":
    RECIPES["tiny"] = "tests.train.tiny"
    main()
