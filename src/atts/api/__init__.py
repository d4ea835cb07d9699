"""What programs call: the functions of ``import atts`` that put several packages together."""
