//go:build tools

// Package tools pins what is built but not imported.
package tools

import _ "github.com/jaegertracing/jaeger/cmd/jaeger"
