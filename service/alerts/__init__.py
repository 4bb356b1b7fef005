"""Find alert conditions, record each alert once, and deliver it; any process that is alive does so."""
