package nixdb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// SchemaVersion is the version of the schema that this package, like every Nix
// since 1.12, reads and writes.
const SchemaVersion = 10

// schemaSQL makes the tables of a new database.
// Source: src/libstore/schema.sql of Nix 2.34.
var schemaSQL = []string{
	`create table if not exists ValidPaths (
		id integer primary key autoincrement not null,
		path text unique not null,
		hash text not null,
		registrationTime integer not null,
		deriver text,
		narSize integer,
		ultimate integer,
		sigs text,
		ca text
	)`,
	`create table if not exists Refs (
		referrer integer not null,
		reference integer not null,
		primary key (referrer, reference),
		foreign key (referrer) references ValidPaths(id) on delete cascade,
		foreign key (reference) references ValidPaths(id) on delete restrict
	)`,
	indexReferrer,
	indexReference,
	triggerSelfRefs,
	`create table if not exists DerivationOutputs (
		drv integer not null,
		id text not null,
		path text not null,
		primary key (drv, id),
		foreign key (drv) references ValidPaths(id) on delete cascade
	)`,
	indexDerivationOutputs,
}

// What is made anew when it is damaged; the first two also after a big load.
const (
	indexReferrer          = `create index if not exists IndexReferrer on Refs(referrer)`
	indexReference         = `create index if not exists IndexReference on Refs(reference)`
	indexDerivationOutputs = `create index if not exists IndexDerivationOutputs on DerivationOutputs(path)`
	// A reference of a path to itself would forbid its deletion.
	triggerSelfRefs = `create trigger if not exists DeleteSelfRefs before delete on ValidPaths begin
		delete from Refs where referrer = old.id and reference = old.id;
	end`
)

// A migration adds something to the schema without a new version number. Its
// name goes to the table SchemaMigrations.
type migration struct {
	name string
	sql  []string
}

// realisations has the tables for content-addressed derivations.
// Source: src/libstore/ca-specific-schema.sql of Nix 2.34, and its name in
// LocalStore::upgradeDBSchema.
var realisations = migration{"20220326-ca-derivations", []string{
	`create table if not exists Realisations (
		id integer primary key autoincrement not null,
		drvPath text not null,
		outputName text not null,
		outputPath integer not null,
		signatures text,
		foreign key (outputPath) references ValidPaths(id) on delete cascade
	)`,
	`create index if not exists IndexRealisations on Realisations(drvPath, outputName)`,
	// Two realisations of one path that depend on each other would forbid its
	// deletion.
	`create trigger if not exists DeleteSelfRefsViaRealisations before delete on ValidPaths begin
		delete from RealisationsRefs where realisationReference in (
			select id from Realisations where outputPath = old.id
		);
	end`,
	`create table if not exists RealisationsRefs (
		referrer integer not null,
		realisationReference integer,
		foreign key (referrer) references Realisations(id) on delete cascade,
		foreign key (realisationReference) references Realisations(id) on delete restrict
	)`,
	`create index if not exists IndexRealisationsRefsRealisationReference on RealisationsRefs(realisationReference)`,
	`create index if not exists IndexRealisationsRefs on RealisationsRefs(referrer)`,
	`create index if not exists IndexRealisationsRefsOnOutputPath on Realisations(outputPath)`,
}}

// readSchema reads the version from the file "schema"; 0: there is no database.
func readSchema(dir string) (int, error) {
	name := filepath.Join(dir, "schema")
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the database's schema version: %w", err)
	}
	text := strings.TrimSpace(string(b))
	if text == "" {
		// Nix makes the file empty before it writes "10" into it, after the tables;
		// it may have been killed there. To make tables that exist does nothing.
		return 0, nil
	}
	version, err := strconv.Atoi(text)
	if err != nil || version <= 0 {
		return 0, &SchemaError{Dir: dir, Why: fmt.Sprintf("'%s' is corrupt: %.20q is no version", name, text)}
	}
	return version, nil
}

// writeSchema writes the file "schema" so that it is there in full or not at all.
func writeSchema(dir string, sync bool) (err error) {
	f, err := os.CreateTemp(dir, "schema.tmp-")
	if err != nil {
		return fmt.Errorf("writing the database's schema version: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
			err = fmt.Errorf("writing the database's schema version: %w", err)
		}
	}()
	_, err = f.WriteString(strconv.Itoa(SchemaVersion))
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil && sync {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, "schema"))
}

func checkSchemaNotNewer(dir string, version int) error {
	if version > SchemaVersion {
		return &SchemaError{Dir: dir, Have: version,
			Why: fmt.Sprintf("current Nix store schema is version %d, but I only support %d", version, SchemaVersion)}
	}
	return nil
}

// checkSchemaNotTooOld refuses the versions that no Nix of this decade migrates.
func checkSchemaNotTooOld(dir string, version int) error {
	old := func(format, upgrade string) error {
		return &SchemaError{Dir: dir, Have: version, Why: fmt.Sprintf(
			"Your Nix store has a database in %s format, which is no longer supported. "+
				"To convert to the new format, please upgrade Nix to version %s first.", format, upgrade)}
	}
	switch {
	case version < 5:
		return old("Berkeley DB", "0.12")
	case version < 6:
		return old("flat file", "1.11")
	}
	return nil
}
