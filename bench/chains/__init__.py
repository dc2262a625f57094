"""MP-SL measured: forecast against real processes and the simulator, memory of processes, learning beside FedAvg."""
