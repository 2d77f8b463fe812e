"""The physics. Problems import `sciml`; `sciml` never imports them; they never import each other."""
