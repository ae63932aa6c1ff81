from amodal.cli import main

main()
