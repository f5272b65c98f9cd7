// Package config knows what a CVMFS client must know beforehand: the Neurodesk
// repository's name, servers and master key, so that a user needs no
// configuration at all.
package config

// NeurodeskFQRN is the name of the repository that holds Neurodesk's images.
const NeurodeskFQRN = "neurodesk.ardc.edu.au"

// NeurodeskServers returns the servers of that repository, in the order of
// Neurodesk's own documentation: by geographic proximity, then the world's.
func NeurodeskServers() []string {
	return []string{
		"http://cvmfs-geoproximity.neurodesk.org/cvmfs/@fqrn@",
		"http://cvmfs.neurodesk.org/cvmfs/@fqrn@",
		"http://s1osggoc-cvmfs.openhtc.io:8080/cvmfs/@fqrn@",
		"http://s1fnal-cvmfs.openhtc.io:8080/cvmfs/@fqrn@",
		"http://s1sampa-cvmfs.openhtc.io:8080/cvmfs/@fqrn@",
		"http://s1brisbane-cvmfs.openhtc.io/cvmfs/@fqrn@",
		"http://s1nikhef-cvmfs.openhtc.io/cvmfs/@fqrn@",
		"http://s1bnl-cvmfs.openhtc.io/cvmfs/@fqrn@",
		"http://s1perth-cvmfs.openhtc.io/cvmfs/@fqrn@",
		"http://cvmfs-stratum-one.ihep.ac.cn:8000/cvmfs/@fqrn@",
	}
}

// NeurodeskKey is the repository's master key (RSA 2048), PEM.
const NeurodeskKey = `-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAwUPEmxDp217SAtZxaBep
Bi2TQcLoh5AJ//HSIz68ypjOGFjwExGlHb95Frhu1SpcH5OASbV+jJ60oEBLi3sD
qA6rGYt9kVi90lWvEjQnhBkPb0uWcp1gNqQAUocybCzHvoiG3fUzAe259CrK09qR
pX8sZhgK3eHlfx4ycyMiIQeg66AHlgVCJ2fKa6fl1vnh6adJEPULmn6vZnevvUke
I6U1VcYTKm5dPMrOlY/fGimKlyWvivzVv1laa5TAR2Dt4CfdQncOz+rkXmWjLjkD
87WMiTgtKybsmMLb2yCGSgLSArlSWhbMA0MaZSzAwE9PJKCCMvTANo5644zc8jBe
NQIDAQAB
-----END PUBLIC KEY-----
`
