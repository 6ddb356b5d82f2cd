"""Configuration shipped with tuban: Hydra trees, class tables, crosswalks and rule packs."""
