// Package cvmfstest is a CVMFS Stratum 1 in process: it builds, signs and serves
// repositories, for tests and for the demo.
//
// Three parts, each of use without the others:
//
//   - [Keys] hold the master key and the repository key, and sign.
//   - [Repository] publishes a [Tree] as a new revision into a [Store], with the
//     objects, catalogs and signatures that the real server tools would make.
//     All revisions stay in the store; [Repository.Serve] goes back to an older.
//   - [Server] serves any [io/fs.FS] as a repository over HTTP on the loopback
//     interface, counts what is asked, and does wrong on request ([Server.Inject]).
//
// A typical test:
//
//	repo, err := cvmfstest.New(cvmfstest.Options{FQRN: "a.example.org"})
//	tree := cvmfstest.NewTree()
//	tree.File("dir/hello", []byte("hello\n"), 0o644)
//	rev, err := repo.Publish(ctx, tree, "v1")
//	server, err := cvmfstest.NewServer()
//	defer server.Close()
//	server.Add("a.example.org", repo.Store)
//	rule := server.Inject(cvmfstest.Path(rev.Objects("dir/hello")[0]), 1, cvmfstest.FlipBit(3))
//
// Golden repositories are served by server.Add(fqrn, os.DirFS(directory)), cases
// over them by [Overlay].
//
// What is made differs from the real tools' in this: chunks are cut at a fixed
// size; there is no reflog, which only servers use; the first revision is 1 and
// need not be empty; hard links across directories become separate files, as
// the real tool does with CVMFS_IGNORE_XDIR_HARDLINKS.
package cvmfstest
