"""What each tab of the page asks the server for, one tab a file. `add(made, …)` puts its routes on
a router."""
