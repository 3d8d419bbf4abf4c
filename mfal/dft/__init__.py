"""Labels from DFT at two fidelities: settings, fingerprints, moments, the magnetic-state gate, engines."""
