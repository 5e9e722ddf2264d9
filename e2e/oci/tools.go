//go:build tools

// Package oci pins the validation programs of the OCI runtime-tools.
package oci

import _ "github.com/opencontainers/runtime-tools/cmd/runtimetest"
