package fs

// smallBits is how many bits of a small inode number the entry has; the volume has
// the other 11.
const smallBits = 21

// inode is the number that stat(2) and listings show of a node. A program of 32
// bits that was built without large files gets EOVERFLOW for numbers that do not
// fit, as glibc's stat and readdir have it. So the node ids of the first volumes,
// which begin with a catalog row, are packed; every number stands for one node.
func inode(id uint64) uint64 {
	number, entry := id>>entryBits, id&entryMask
	switch {
	case number < 1<<(32-smallBits) && entry < 1<<smallBits:
		return number<<smallBits | entry
	case number == 0: // the id may be a packed one's number
		return maxVolume<<entryBits | entry
	}
	return id
}
