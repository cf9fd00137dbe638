"""Run an artefact: bundles, backends behind one Runner, sources, inference modes, benchmarks. Imports no torch, no mmseg."""
