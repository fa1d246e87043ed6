"""What every container engine must do: one suite, run on the engine in memory and on real ones."""
