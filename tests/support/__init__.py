"""What tests share: a site, partners, faults, waiting."""
