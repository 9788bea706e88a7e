"""Keys, signing domains and signature checks."""
