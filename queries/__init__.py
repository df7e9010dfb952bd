"""SQL query files, one a table; each pastes into any session that `layerhouse sql --init` has prepared."""
