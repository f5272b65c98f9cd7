// Package fetch gets objects over HTTP from a repository's servers, and goes on
// to the next proxy or server when one fails.
//
// # The way of a request
//
// Get picks the current server and the current proxy and hands each answer's
// body to the caller's Accept, which verifies it. Nothing counts as delivered
// until Accept has said so: a wrong hash, a cut-off body or a login page sent
// with status 200 is the server's failure, like a refused connection. What
// follows a failure is what the reference client does (CVMFS documentation,
// "Client configuration", and its network/download.cc):
//
//   - a connection that fails, hangs or is slow, and status 429: the same URL
//     again, Config.MaxRetries times, after a random pause;
//   - content that Accept refuses: the same URL once more with
//     "Cache-Control: no-cache", to get past a damaged copy in a cache;
//   - then the next proxy where the proxy is to blame, all proxies of all
//     groups, and after them, or at once where the server is to blame, the next
//     server.
//
// Two things are ours. Status 5xx is asked again only where no other server is
// left, since another server answers sooner than a pause ends. And when every
// server failed verification by the same proxy, the proxies not yet tried are
// asked too: it may be the proxy that garbles.
//
// The server and the proxy that work are remembered for the requests after.
// A server that cannot be reached is left at once; one that lacks or garbles
// one object only when another has delivered that object. Config.HostReset
// and Config.ProxyReset lead back to the first.
//
// # Names with several addresses
//
// Each address of a proxy's name is a member of its group, of a server's name a
// place to connect to; what does not connect, or hangs, comes last for
// Config.ProxyReset. Names are looked up again when their time to live has
// passed, in the background, and what was found is used until something else
// is: a name server that goes away stops nothing.
//
// # The order of the servers
//
// With Config.Order "geo" or "probe", the servers are put in order in the
// background of the first requests, which are made in the order of the
// configuration: a mount is never slower for it. The geo API is asked of up to
// three servers. Probing asks all at once for their manifest (3 s to connect,
// 8 s in all), then, 10 s later, the five fastest, one by one, for up to 4 MiB of
// their root catalog. Where the first server does not answer the probe, the fastest takes
// over at once. The order is kept for 7 days by Config.Keep, and found again, by
// probing, when its first server turns bad, at most every 10 minutes.
//
// # Time-outs
//
// There is none for a whole body. Connecting, waiting for the head of the
// answer, and each stretch of reading below Config.LowSpeedLimit may take one
// time-out; only time spent waiting for the network counts, never the time that
// Accept needs.
//
// # Concurrency
//
// A Client and all its methods are safe for concurrent use. LOCK ORDER:
// expander.mu before chain.mu. flights.mu, slots.mu, chain.mu, watch.mu,
// order.mu and background.mu are leaves: none of ours is taken while one is
// held, and no callback runs under one; but names.mu is held while
// background.mu is taken.
package fetch
