package cvmfstest

// Waves counts the waves of requests in a log: a wave is the requests that begin
// while another of the same wave is under way. A client that waits for each
// answer before it asks again makes one wave of each request; one that asks for
// all at once makes one in all. With a Delay on every answer, so that what is
// asked at once overlaps, it is the number of round trips that a client waited
// for.
func Waves(log []Request) int {
	waves, until := 0, 0
	for _, r := range log { // in the order of their beginnings
		if until != inFlight && r.Began > until {
			waves++
			until = 0
		}
		switch {
		case r.Ended == 0:
			until = inFlight
		case until != inFlight:
			until = max(until, r.Ended)
		}
	}
	return waves
}

// inFlight stands for the end of a request that has none yet.
const inFlight = -1

// Rounds is the length of the longest chain of requests in a log each of which
// began after the one before had ended. It is never less than Waves, and more
// where a client asks for so much at once that its own bound on requests makes
// some of them wait.
func Rounds(log []Request) int {
	longest := 0
	depth := make([]int, len(log)) // of the chain that ends with each
	for i, r := range log {
		depth[i] = 1
		for j, before := range log[:i] {
			if before.Ended != 0 && before.Ended < r.Began {
				depth[i] = max(depth[i], depth[j]+1)
			}
		}
		longest = max(longest, depth[i])
	}
	return longest
}
