"""``python -m gateway.cli``"""

from .commands import main

main()
