package repo

// Uploads: how a package is sent to a server, see doc/design.md. All paths lie
// below UploadPath/NAME_N/DIGEST, the package's name, version and digest.
const (
	UploadPath = "upload/"
	// Names of the three parts of an upload.
	UploadIndex, UploadData, UploadPatch = "index", "ckm", "patch"
	// UploadType is the media type of a piece of a part.
	UploadType = "application/partial-upload"
	// Header fields: where a piece begins, or how far a part has come; up to where it
	// is wanted; how long it is as a whole; and ?1 if the piece is its last.
	UploadOffset, UploadUntil, UploadLength, UploadComplete = "Upload-Offset", "Upload-Until", "Upload-Length", "Upload-Complete"
)

// UploadState is how far an upload has come.
type UploadState struct {
	// Published says that the package can be seen, HasPatch that its patch can.
	Published bool `json:"published"`
	HasPatch  bool `json:"has_patch"`
	// SignedBy are the IDs of the keys whose signatures a published package has.
	SignedBy []string `json:"signed_by,omitempty"`
	// Versions are the package digests of the versions that the server has, which a
	// patch may be based on.
	Versions map[uint32]string `json:"versions,omitempty"`

	Index UploadPart `json:"index"`
	Data  UploadPart `json:"ckm"`
	Patch UploadPart `json:"patch"`
}

// UploadPart is how far a part has come, in bytes.
type UploadPart struct {
	Offset int64 `json:"offset"`
	// Until is where the next piece should end: the server has what follows. Where it
	// is the offset itself, an empty piece has it go on with that. 0 means the end of the
	// part.
	Until int64 `json:"until,omitempty"`
	// Complete says that the server has accepted all of it.
	Complete bool `json:"complete,omitempty"`
}
