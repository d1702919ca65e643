package check

import (
	"context"

	"golang.org/x/sys/unix"
)

// Class is one way in which a store can be out of order.
type Class struct {
	Code     Code
	Severity Severity
	// Title says what it is, Consequence what follows from that, Repair what a repair
	// does about it; "": nothing can be done from here.
	Title, Consequence, Repair string

	// One of these looks: at everything, at what the layers have of one name, at the
	// contents of one object. None: it is found by a [Source].
	whole  func(ctx context.Context, x *examination, say func(*Finding)) error
	line   func(x *examination, l *line, say func(*Finding))
	object func(x *examination, o *object, say func(*Finding))
	// mend mends one finding, or mendAll many at once; both nil: nothing does, unless the
	// finding brings it along.
	mend    func(ctx context.Context, r *repairs, f *Finding) error
	mendAll func(ctx context.Context, r *repairs, fs []*Finding)
}

// ofContents tells whether the class is only looked at when contents are.
func (c *Class) ofContents() bool { return c.object != nil || c.Code == LinkModified }

// Classes are all there are, in the order in which they are mended: first what everything
// else is asked of, then what hides objects, then objects, then what is left over.
func Classes() []*Class {
	return []*Class{
		{
			Code: LowerGone, Severity: Damage,
			Title:       "a lower is not there",
			Consequence: "Objects that the upper leans on cannot be read.",
		}, {
			Code: LowerReplaced, Severity: Damage,
			Title:       "a lower is not the one that the upper was made for",
			Consequence: "Objects that the upper leans on may be gone or have other contents; 'strata pivot' moves the upper to the new one.",
		}, {
			Code: MountWrong, Severity: Damage,
			Title:       "the mount is not what the layers say",
			Consequence: "Programs see other objects than the database has; the stack has to be taken down and up again.",
			whole:       findWrongMount,
		}, {
			Code: LockBroken, Severity: Damage,
			Title:       "a lock is no lock",
			Consequence: "Processes that work on the store do not keep out of each other's way, or cannot work at all.",
			Repair:      "it is put aside, and a proper one made",
			whole:       findBrokenLocks, mend: mendLock,
		}, {
			Code: LockLeft, Severity: Disorder,
			Title:       "a lock file is left that nobody holds",
			Consequence: "It does no harm, unless others may not open it: then nobody can make that path.",
			Repair:      "it is deleted",
			line:        findLeftLock, mend: mendLeftLock,
		}, {
			Code: DatabaseCorrupt, Severity: Damage,
			Title:       "the database is corrupt",
			Consequence: "Answers may be wrong or missing; a backup has to be put in its place.",
			whole:       findDatabaseDamage,
		}, {
			Code: DatabaseSchema, Severity: Damage,
			Title:       "a table of the database has not the columns that Nix knows",
			Consequence: "Neither Nix nor strata can read it.",
		}, {
			Code: DatabaseFiles, Severity: Damage,
			Title:       "a file of the database is not as it should be",
			Consequence: "Others who use the store cannot open the database, or it grows without end.",
			Repair:      "modes and owners are set, and the log is written back",
			mendAll:     mendDatabaseFiles,
		}, {
			Code: DatabaseIndex, Severity: Damage,
			Title:       "an index of the database is wrong or not there",
			Consequence: "Answers miss paths, garbage that is in use may be collected, or everything is slow.",
			Repair:      "all indices are made anew",
			mendAll:     mendIndices,
		}, {
			Code: DatabaseRow, Severity: Damage,
			Title:       "a row of the database cannot be understood",
			Consequence: "Every request that meets it fails, garbage collections too.",
			Repair:      "what cannot be understood is taken from a lower or emptied",
			mend:        mendRow,
		}, {
			Code: ReferenceDangling, Severity: Damage,
			Title:       "a row of the database refers to one that is not there",
			Consequence: "The closure of the path is not complete, and garbage collections fail.",
			Repair:      "the references are taken from a lower, or found in the object anew",
			mend:        mendReference,
		}, {
			Code: WhiteoutHidesLower, Severity: Damage,
			Title:       "a whiteout hides an object of a lower",
			Consequence: "The object is valid, and nobody can see it.",
			Repair:      "the whiteout is deleted",
			line:        findHidingWhiteout, mendAll: mendWhiteouts,
		}, {
			Code: ObjectHidesLower, Severity: Disorder, // as a collection leaves it that was killed
			Title:       "something that is not registered hides an object of a lower",
			Consequence: "Whoever uses the path gets contents that nobody answers for any more.",
			Repair:      "it is deleted, as a garbage collection would",
			line:        findHidingObject, mendAll: mendStrays,
		}, {
			Code: ObjectMerged, Severity: Damage,
			Title:       "a directory of the upper is mixed with one of a lower",
			Consequence: "What shows is neither the one object nor the other.",
			Repair:      "the complete one is kept: the upper's is made opaque, or its part deleted",
			line:        findMerged, mend: mendMerged,
		}, {
			Code: ViewStale, Severity: Damage,
			Title:       "an object that is there does not show in the merged store",
			Consequence: "Programs get 'no such file' or a stale file handle.",
			Repair:      "the mount is refreshed",
			line:        findStaleView, mendAll: mendViews,
		}, {
			Code: LowerObjectMissing, Severity: Damage,
			Title:       "a lower lost an object that the upper needs",
			Consequence: "What refers to it does not work.",
			Repair:      "it is taken from another layer, a substituter or a new build into the upper",
			line:        findLostByLower, mend: mendObject,
		}, {
			Code: LowerObjectChanged, Severity: Damage,
			Title:       "a lower has other contents of an object than the upper knows",
			Consequence: "What was built against it may not work, and checks of signatures fail.",
			Repair:      "what the upper knows is taken from another layer, a substituter or a new build into the upper",
			line:        findChangedByLower, mend: mendObject,
		}, {
			Code: LowerRowMissing, Severity: Damage,
			Title:       "a lower has an object that the upper needs, and does not hold it for valid",
			Consequence: "The lower's garbage collection takes it.",
			Repair:      "it is copied into the upper",
			line:        findUnregisteredByLower, mend: mendObject,
		}, {
			Code: RowWithoutObject, Severity: Damage,
			Title:       "a valid path has no object",
			Consequence: "What refers to it does not work.",
			Repair:      "it is forgotten if nothing refers to it, else taken from another layer, a substituter or a new build",
			line:        findLost, mendAll: mendLost,
		}, {
			Code: ObjectModified, Severity: Damage,
			Title:       "contents of an object are not those that were registered",
			Consequence: "Programs may do anything.",
			Repair:      "it is taken from another layer, a substituter or a new build",
			object:      findModified, mend: mendObject,
		}, {
			Code: ObjectUnreadable, Severity: Damage,
			Title:       "an object cannot be read",
			Consequence: "Programs that use it fail; the disk may be dying.",
			Repair:      "it is taken from another layer, a substituter or a new build",
			object:      findUnreadable, mend: mendObject,
		}, {
			Code: CoveredMissing, Severity: Disorder, // as a repair leaves it
			Title:       "a lower has lost an object of which the upper has one of its own",
			Consequence: "Nothing, as long as the upper has it; others who use that lower miss it.",
			line:        findCoveredMissing,
		}, {
			Code: CoveredModified, Severity: Disorder, // as a repair leaves it
			Title:       "a lower's object is damaged, and the upper has one of its own",
			Consequence: "Nothing, as long as the upper has it; others who use that lower are not so lucky.",
			object:      findCoveredModified,
		}, {
			Code: SizeWrong, Severity: Disorder,
			Title:       "the registered size of an object is wrong",
			Consequence: "Copies to other stores are refused there.",
			Repair:      "the size is set",
			object:      findWrongSize, mend: mendSize,
		}, {
			Code: MetadataWrong, Severity: Disorder, // stock Nix does not even look
			Title:       "an object has another mode, time or owner than objects have",
			Consequence: "Somebody may be able to change it, or somebody not to read it.",
			Repair:      "modes, times and owners are set",
			object:      findWrongMetadata, mend: mendMetadata,
		}, {
			Code: SignatureBad, Severity: Disorder,
			Title:       "a signature in the name of a trusted key does not hold",
			Consequence: "Stores that ask for it refuse the object.",
			Repair:      "the signature is deleted",
			object:      findBadSignature, mend: mendSignature,
		}, {
			Code: LinkModified, Severity: Damage,
			Title:       "a link of optimised files has other contents than its name says",
			Consequence: "The next optimisation spoils other objects with it.",
			Repair:      "the link is deleted",
			mend:        mendLink,
		}, {
			Code: RootDangling, Severity: Disorder,
			Title:       "a garbage collector root leads nowhere",
			Consequence: "It keeps nothing alive, whatever its owner thinks.",
			Repair:      "what it names is fetched; a link to a link that is gone is deleted",
			whole:       findDanglingRoots, mend: mendRoot,
		}, {
			Code: LeaseDangling, Severity: Disorder,
			Title:       "a lease names objects that are gone, or is of nobody any more",
			Consequence: "Its owner leans on what the lower does not have, or keeps what nobody needs.",
			Repair:      "one of nobody is deleted",
		}, {
			Code: WhiteoutStray, Severity: Disorder,
			Title:       "a whiteout hides nothing yet",
			Consequence: "If a lower gains the object, nobody will see it.",
			Repair:      "the whiteout is deleted",
			line:        findStrayWhiteout, mendAll: mendWhiteouts,
		}, {
			Code: DuplicateOfLower, Severity: Disorder,
			Title:       "an object of the upper is in a lower too",
			Consequence: "It takes space for nothing.",
			Repair:      "the upper's copy is deleted, once the lower's has been compared",
			line:        findDuplicate, mendAll: mendDuplicates,
		}, {
			Code: ObjectWithoutRow, Severity: Disorder,
			Title:       "an object is not registered",
			Consequence: "It takes space until garbage is collected.",
			Repair:      "it is deleted, as a garbage collection would",
			line:        findStray, mendAll: mendStrays,
		}, {
			Code: ForeignFile, Severity: Disorder,
			Title:       "something in the store directory is no store object",
			Consequence: "The next garbage collection deletes it.",
			Repair:      "it is deleted, as a garbage collection would",
			line:        findForeign, mendAll: mendStrays,
		}, {
			Code: LeftoverTemporary, Severity: Disorder,
			Title:       "an operation was killed and left something behind",
			Consequence: "It takes space until garbage is collected.",
			Repair:      "it is deleted",
			line:        findLeftover, mendAll: mendStrays,
		}, {
			Code: TemporaryRootsOfDead, Severity: Disorder,
			Title:       "temporary roots are left of a process that has ended",
			Consequence: "They do no harm; the next garbage collection deletes them.",
			Repair:      "they are deleted",
			whole:       findTemporaryRootsOfDead, mend: mendTemporaryRoots,
		}, {
			Code: CacheObjectModified, Severity: Damage,
			Title:       "an object in the cache of a lazy lower is not the one that was fetched",
			Consequence: "Programs may do anything.",
			Repair:      "it is dropped, and fetched again when it is read",
		}, {
			Code: CacheFileModified, Severity: Disorder, // whoever uses it compares it first
			Title:       "a file that objects in the cache of a lazy lower share has other contents than its name says",
			Consequence: "It takes space for nothing.",
			Repair:      "it is deleted",
		}, {
			Code: CacheRecordDamaged, Severity: Damage,
			Title:       "what the cache of a lazy lower has noted cannot be understood",
			Consequence: "Objects are fetched that are here, or cannot be evicted.",
			Repair:      "it is made again, or deleted",
		}, {
			Code: CacheMetadataWrong, Severity: Disorder,
			Title:       "an object in the cache of a lazy lower has another mode or time than objects have",
			Consequence: "Somebody may be able to change it, or somebody not to read it.",
			Repair:      "modes and times are set",
		}, {
			Code: CacheLeftover, Severity: Disorder,
			Title:       "something in the cache of a lazy lower belongs to nothing",
			Consequence: "It takes space until something is evicted.",
			Repair:      "it is deleted",
		},
	}
}

// whiteout tells whether the upper has a character device, OverlayFS's way to say that
// there is nothing.
func (l *line) whiteout() bool { return len(l.at) > 1 && l.at[0].typ == unix.DT_CHR }
