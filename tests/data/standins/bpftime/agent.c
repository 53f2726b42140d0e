// A stand-in for bpftime's libbpftime-agent.so: it is mapped into the target, so that it can be
// seen there; what runs at the sites are the trampolines that `bpftime attach` writes.
int standin_agent(void);

int standin_agent(void) {
	return 1;
}
