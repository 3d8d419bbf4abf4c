"""The science of mfal: frames, exploration, the multi-fidelity model, the committee. No jobflow, no database."""
