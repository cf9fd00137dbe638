"""The two operators no exporter knows, selective scan and neighbourhood attention: ``segc.ops.scan`` and ``segc.ops.attention``."""
