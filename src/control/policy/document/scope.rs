//! Scopes: a service, and what may be called there.

use super::fields::{HTTP, SCOPE};
use crate::control::policy::node::Value;
use crate::control::policy::read::{Field, Reader};
use crate::model::identity::Service;
use crate::model::scope::{GrpcRule, HttpRule, RULES_MAX, Rule, Scope};

impl Reader<'_> {
    pub(in crate::control::policy) fn scope(&mut self, field: &Field<'_>) -> Option<Scope> {
        let before = self.findings.errors();
        let fields = self.open(field, SCOPE)?;
        let service = self.required(&fields, "service", "payments");
        let service = service.and_then(|field| self.parsed(&field, Service::parse));
        let mut rules = Vec::new();
        if let Some(field) = fields.field("grpc") {
            let entries = self.list(&field, RULES_MAX);
            rules.extend(
                entries
                    .iter()
                    .filter_map(|entry| self.parsed(entry, GrpcRule::parse))
                    .map(Rule::Grpc),
            );
        }
        if let Some(field) = fields.field("http") {
            let entries = self.list(&field, RULES_MAX);
            rules.extend(
                entries
                    .iter()
                    .filter_map(|entry| self.http_rule(entry))
                    .map(Rule::Http),
            );
        }
        if fields.field("grpc").is_none() && fields.field("http").is_none() {
            return self.refuse(
                field,
                "allows nothing; add grpc: ['/pkg.Svc/Method'] or http: ['GET /v1/users/{id}']",
            );
        }
        if self.findings.errors() > before {
            return None;
        }
        match Scope::new(service?, rules) {
            Ok(scope) => Some(scope),
            Err(error) => self.refuse(field, error.to_string()),
        }
    }

    /// `GET,HEAD /v1/users/{id}`, or the same as a map.
    fn http_rule(&mut self, field: &Field<'_>) -> Option<HttpRule> {
        if !matches!(field.node.value, Value::Map(_)) {
            return self.parsed(field, HttpRule::parse_line);
        }
        let fields = self.open(field, HTTP)?;
        let methods = self.required(&fields, "methods", "[GET]");
        let methods = methods.map(|field| {
            let entries = self.list(&field, 32);
            entries
                .iter()
                .filter_map(|entry| self.text(entry).map(str::to_owned))
                .collect::<Vec<_>>()
        });
        let path = self
            .required(&fields, "path", "/v1/users/{id}")
            .and_then(|field| self.text(&field));
        let (Some(methods), Some(path)) = (methods, path) else {
            return None;
        };
        if methods.is_empty() {
            return None;
        }
        match HttpRule::parse(&methods, path) {
            Ok(rule) => Some(rule),
            Err(error) => self.refuse(field, error.to_string()),
        }
    }
}
