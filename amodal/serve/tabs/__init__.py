"""The routes of each tab of the page, one tab a file. `add(made, …)` puts them on a router."""
