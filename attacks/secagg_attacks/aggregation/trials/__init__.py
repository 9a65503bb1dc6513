"""Every attack against secure aggregation, tried: on real protocol code in memory, with its defence off and on."""
