//! TLS 1.3 with SPIFFE identities: files in, `rustls` configurations out, and the peer's SPIFFE ID read from its certificate.
