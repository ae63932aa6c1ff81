"""Sets that testbeds need and amodal does not have, as entry points of `amodal.datasets`."""
