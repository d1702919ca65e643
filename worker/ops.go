package worker

import (
	"context"
	"errors"
	"fmt"
)

// op is one thing that a client can ask for.
type op struct {
	number uint64
	name   string
	// since is the first version that has it; zero: all that we speak.
	since Version
	// obsolete: no client that speaks Latest asks for it.
	obsolete bool
	// feature is the extension that has it, "" if it is not one of these.
	feature string
	// serve reads the request, performs it and answers; see session. nil: nobody
	// has it any more.
	serve func(context.Context, *session) error
}

// The numbers of the operations.
const (
	opIsValidPath                 = 1
	opHasSubstitutes              = 3
	opQueryPathHash               = 4
	opQueryReferences             = 5
	opQueryReferrers              = 6
	opAddToStore                  = 7
	opAddTextToStore              = 8
	opBuildPaths                  = 9
	opEnsurePath                  = 10
	opAddTempRoot                 = 11
	opAddIndirectRoot             = 12
	opSyncWithGC                  = 13
	opFindRoots                   = 14
	opExportPath                  = 16
	opQueryDeriver                = 18
	opSetOptions                  = 19
	opCollectGarbage              = 20
	opQuerySubstitutablePathInfo  = 21
	opQueryDerivationOutputs      = 22
	opQueryAllValidPaths          = 23
	opQueryFailedPaths            = 24
	opClearFailedPaths            = 25
	opQueryPathInfo               = 26
	opImportPaths                 = 27
	opQueryDerivationOutputNames  = 28
	opQueryPathFromHashPart       = 29
	opQuerySubstitutablePathInfos = 30
	opQueryValidPaths             = 31
	opQuerySubstitutablePaths     = 32
	opQueryValidDerivers          = 33
	opOptimiseStore               = 34
	opVerifyStore                 = 35
	opBuildDerivation             = 36
	opAddSignatures               = 37
	opNarFromPath                 = 38
	opAddToStoreNar               = 39
	opQueryMissing                = 40
	opQueryDerivationOutputMap    = 41
	opRegisterDrvOutput           = 42
	opQueryRealisation            = 43
	opAddMultipleToStore          = 44
	opAddBuildLog                 = 45
	opBuildPathsWithResults       = 46
	opAddPermRoot                 = 47

	// Those of our own extensions, far from all others.
	opQueryClosure = 0x53_00_00_01
)

// ops is the table of everything.
var ops = []op{
	{number: opIsValidPath, name: "IsValidPath", serve: serveIsValidPath},
	{number: opHasSubstitutes, name: "HasSubstitutes", obsolete: true},
	{number: opQueryPathHash, name: "QueryPathHash", obsolete: true},
	{number: opQueryReferences, name: "QueryReferences", obsolete: true},
	{number: opQueryReferrers, name: "QueryReferrers", serve: serveQueryReferrers},
	{number: opAddToStore, name: "AddToStore", serve: serveAddToStore},
	{number: opAddTextToStore, name: "AddTextToStore", obsolete: true, serve: serveAddTextToStore},
	{number: opBuildPaths, name: "BuildPaths", serve: serveBuildPaths},
	{number: opEnsurePath, name: "EnsurePath", serve: serveEnsurePath},
	{number: opAddTempRoot, name: "AddTempRoot", serve: serveAddTempRoot},
	{number: opAddIndirectRoot, name: "AddIndirectRoot", serve: serveAddIndirectRoot},
	{number: opSyncWithGC, name: "SyncWithGC", obsolete: true, serve: serveSyncWithGC},
	{number: opFindRoots, name: "FindRoots", serve: serveFindRoots},
	{number: opExportPath, name: "ExportPath", obsolete: true},
	{number: opQueryDeriver, name: "QueryDeriver", obsolete: true, serve: serveQueryDeriver},
	{number: opSetOptions, name: "SetOptions", serve: serveSetOptions},
	{number: opCollectGarbage, name: "CollectGarbage", serve: serveCollectGarbage},
	{number: opQuerySubstitutablePathInfo, name: "QuerySubstitutablePathInfo", obsolete: true, serve: serveQuerySubstitutablePathInfo},
	{number: opQueryDerivationOutputs, name: "QueryDerivationOutputs", obsolete: true, serve: serveQueryDerivationOutputs},
	{number: opQueryAllValidPaths, name: "QueryAllValidPaths", serve: serveQueryAllValidPaths},
	{number: opQueryFailedPaths, name: "QueryFailedPaths", obsolete: true},
	{number: opClearFailedPaths, name: "ClearFailedPaths", obsolete: true},
	{number: opQueryPathInfo, name: "QueryPathInfo", serve: serveQueryPathInfo},
	{number: opImportPaths, name: "ImportPaths", obsolete: true},
	{number: opQueryDerivationOutputNames, name: "QueryDerivationOutputNames", obsolete: true, serve: serveQueryDerivationOutputNames},
	{number: opQueryPathFromHashPart, name: "QueryPathFromHashPart", serve: serveQueryPathFromHashPart},
	{number: opQuerySubstitutablePathInfos, name: "QuerySubstitutablePathInfos", serve: serveQuerySubstitutablePathInfos},
	{number: opQueryValidPaths, name: "QueryValidPaths", serve: serveQueryValidPaths},
	{number: opQuerySubstitutablePaths, name: "QuerySubstitutablePaths", serve: serveQuerySubstitutablePaths},
	{number: opQueryValidDerivers, name: "QueryValidDerivers", serve: serveQueryValidDerivers},
	{number: opOptimiseStore, name: "OptimiseStore", serve: serveOptimiseStore},
	{number: opVerifyStore, name: "VerifyStore", serve: serveVerifyStore},
	{number: opBuildDerivation, name: "BuildDerivation", serve: serveBuildDerivation},
	{number: opAddSignatures, name: "AddSignatures", serve: serveAddSignatures},
	{number: opNarFromPath, name: "NarFromPath", serve: serveNarFromPath},
	{number: opAddToStoreNar, name: "AddToStoreNar", serve: serveAddToStoreNar},
	{number: opQueryMissing, name: "QueryMissing", since: v1 + 19, serve: serveQueryMissing},
	{number: opQueryDerivationOutputMap, name: "QueryDerivationOutputMap", since: v1 + 22, serve: serveQueryDerivationOutputMap},
	{number: opRegisterDrvOutput, name: "RegisterDrvOutput", since: v1 + 27, serve: serveRegisterDrvOutput},
	{number: opQueryRealisation, name: "QueryRealisation", since: v1 + 27, serve: serveQueryRealisation},
	{number: opAddMultipleToStore, name: "AddMultipleToStore", since: v1 + 32, serve: serveAddMultipleToStore},
	{number: opAddBuildLog, name: "AddBuildLog", since: v1 + 32, serve: serveAddBuildLog},
	{number: opBuildPathsWithResults, name: "BuildPathsWithResults", since: v1 + 34, serve: serveBuildPathsWithResults},
	{number: opAddPermRoot, name: "AddPermRoot", since: v1 + 36, serve: serveAddPermRoot},
	{number: opQueryClosure, name: "QueryClosure", since: v1 + 38, feature: featureClosure, serve: serveQueryClosure},
}

// errUnknownOp has the words of stock daemons.
var errUnknownOp = errors.New("invalid operation")

// byNumber is ops by number, filled at start-up because the functions in ops lead
// back here.
var byNumber = map[uint64]*op{}

func init() {
	for i := range ops {
		byNumber[ops[i].number] = &ops[i]
	}
}

// opByNumber gives nil for what never was an operation.
func opByNumber(n uint64) *op { return byNumber[n] }

func opName(n uint64) string {
	if o := opByNumber(n); o != nil {
		return o.name
	}
	return fmt.Sprintf("operation %d", n)
}
