//! The MCP server itself: a handbook with the tools of `deploy/sample/audiences/docs.toml`.

use rmcp::handler::server::tool::ToolCallContext;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, ErrorCode, ListToolsResult, PaginatedRequestParams,
    ServerCapabilities, ServerConfig,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, ServerHandler, schemars, tool, tool_router};
use serde::Deserialize;
use serde_json::json;
use taskpass_verifier::claims::{Scope, ToolName};
use taskpass_verifier::{Grant, Refusal};

use crate::gate::permitted;

/// What there is to read.
const PAGES: [(&str, &str); 3] = [
    ("holidays", "Everybody has thirty days of leave. Ask two weeks ahead."),
    ("incidents", "Page the engineer on duty first, then write down what you see."),
    ("expenses", "Keep the receipt. What is below fifty needs no approval."),
];

/// Pages by name, all of them constant.
#[derive(Clone, Copy, Debug)]
pub struct Handbook;

/// Text to look for.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct Search {
    /// Words as they stand in a page.
    pub query: String,
}

/// A page to read.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct Read {
    /// Its name.
    pub page: String,
}

/// A page to write.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct Write {
    /// Its name.
    pub page: String,
    /// What is to stand there.
    pub text: String,
}

#[tool_router]
impl Handbook {
    #[tool(description = "Names the pages in which a text stands")]
    fn search(&self, Parameters(Search { query }): Parameters<Search>) -> String {
        let found = PAGES.iter().filter(|(name, text)| name.contains(&query) || text.contains(&query));
        found.map(|(name, _)| *name).collect::<Vec<_>>().join("\n")
    }

    #[tool(description = "Gives a page")]
    fn read(&self, Parameters(Read { page }): Parameters<Read>) -> Result<String, ErrorData> {
        let found = PAGES.iter().find(|(name, _)| *name == page);
        found
            .map(|(_, text)| (*text).to_owned())
            .ok_or_else(|| ErrorData::invalid_params("there is no such page", None))
    }

    #[tool(description = "Writes a page; here it only says so")]
    fn write(&self, Parameters(Write { page, text }): Parameters<Write>) -> String {
        format!("{page} would have {} characters now", text.chars().count())
    }
}

impl Handbook {
    /// Every tool that there is.
    pub fn scope() -> Result<Scope, Refusal> {
        let names = Self::tool_router().list_all().into_iter().map(|tool| tool.name.parse());
        let names: Vec<ToolName> = names.collect::<Result<_, _>>().map_err(|_| Refusal::MalformedScope)?;
        Scope::new(&names)
    }
}

impl ServerHandler for Handbook {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    /// The tools that the token grants.
    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let parts = context.extensions.get::<http::request::Parts>();
        let grant = parts.and_then(|parts| parts.extensions.get::<Grant>());
        let granted = |name: &str| grant.is_some_and(|grant| grant.claims().scope.has_tool(name));
        let tools = Self::tool_router().list_all().into_iter().filter(|tool| granted(&tool.name)).collect();
        Ok(ListToolsResult::with_all_items(tools))
    }

    /// Each call is permitted by itself, arguments included.
    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let parts = context.extensions.get::<http::request::Parts>();
        if let Err(why) = permitted(parts, &request.name, request.arguments.as_ref()) {
            let data = json!({ "error": "insufficient_scope", "reason": why.as_str() });
            return Err(ErrorData::new(ErrorCode::INVALID_REQUEST, why.sentence(), Some(data)));
        }
        Self::tool_router().call(ToolCallContext::new(self, request, context)).await
    }
}
