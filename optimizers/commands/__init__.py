"""The `sgt` command by groups: what each reads from its line, and how it shows what a room of the package found."""
