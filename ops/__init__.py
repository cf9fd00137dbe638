"""The two operators no exporter knows: selective scan and neighbourhood attention (not built yet)."""
