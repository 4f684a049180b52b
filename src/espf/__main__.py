"""``python -m espf`` is ``evctl``."""

from espf.cli import main

main()
