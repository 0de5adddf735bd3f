"""The `sgt` command by groups: each command reads its options, calls the package, and shows the result."""
