"""Put jobs back: what a dead worker held and what nobody rang (`sweep`); what a person wants again (`retry`, `bulk`)."""
