//! The paths of the table of flows: read by name and by page, and written on. [`super::flow_watch`] follows it.

use axum::{Json, extract::State};
use flow::{Revision, flows::Verdict};

use super::{
    extract::{FlowsQuery, InPath, InQuery, JsonBody, ReadQuery},
    failure::Failure,
    flow_json::{
        FlowJson, FlowReadJson, FlowsJson, FlowsReadJson, LabelsJson, LookedUpJson, LookupJson, NameJson,
        NewVerdictJson, StatsJson, parse_id,
    },
    json::AppliedJson,
};
use crate::control::{
    Consistency, Control, ControlError, blocking,
    check::PAGE_ROWS_MAX,
    flows::{FlowCursor, FlowName, FlowPosition, FoundFlow, annotate, tables_with},
};

type Answer<T> = Result<Json<T>, Failure>;

/// A page.
pub async fn list<C: Control>(State(control): State<C>, InQuery(query): InQuery<FlowsQuery>) -> Answer<FlowsJson> {
    query.check_page()?;
    let (filter, limit) = (query.filter()?, query.rows()?);
    let cursor = query.cursor.as_deref().map(FlowCursor::parse).transpose()?;
    let tables = tables_with(&control, query.consistency()?, cursor.as_ref()).await?;
    let page = blocking(move || {
        let page = tables.page(&filter, limit, cursor)?;
        Ok::<_, ControlError>(FlowsJson {
            flows: page.flows.iter().map(|found| shown(&control, found)).collect(),
            next: page.next.map(|cursor| cursor.to_string()),
            position: FlowPosition::now(&tables).to_string(),
            applied_index: tables.applied(),
        })
    });
    Ok(Json(page.await??))
}

/// The flow of an id.
pub async fn get<C: Control>(
    State(control): State<C>,
    InPath((size, id)): InPath<(String, String)>,
    InQuery(query): InQuery<ReadQuery>,
) -> Answer<FlowReadJson> {
    let name = parse_name(&size, &id)?;
    let tables = control.flows(query.consistency()?).await?;
    match tables.get(&name, 1).first() {
        Some(found) => Ok(Json(FlowReadJson { flow: shown(&control, found), applied_index: tables.applied() })),
        None => Err(ControlError::NotFound(format!("there is no flow {size}/{id}")).into()),
    }
}

/// The flows of a Community ID.
pub async fn community<C: Control>(
    State(control): State<C>,
    InPath(text): InPath<String>,
    InQuery(query): InQuery<ReadQuery>,
) -> Answer<FlowsReadJson> {
    let name = FlowName::community(&text)?;
    let tables = control.flows(query.consistency()?).await?;
    let read = blocking(move || {
        let (found, _) = tables.look_up(&[name])?;
        let flows = found.iter().map(|found| shown(&control, found)).collect();
        Ok::<_, ControlError>(FlowsReadJson { flows, applied_index: tables.applied() })
    });
    let read = read.await??;
    match read.flows.is_empty() {
        true => Err(ControlError::NotFound(format!("there is no flow {text}")).into()),
        false => Ok(Json(read)),
    }
}

/// Several flows at once.
pub async fn lookup<C: Control>(
    State(control): State<C>,
    InQuery(query): InQuery<ReadQuery>,
    JsonBody(body): JsonBody<LookupJson>,
) -> Answer<LookedUpJson> {
    if body.flows.len() > PAGE_ROWS_MAX {
        let text = format!("{} flows are asked for: at most {PAGE_ROWS_MAX} at once", body.flows.len());
        return Err(ControlError::Invalid(text).into());
    }
    let names = body.flows.into_iter().map(NameJson::read).collect::<Result<Vec<FlowName>, _>>()?;
    let tables = control.flows(query.consistency()?).await?;
    let looked_up = blocking(move || {
        let (found, missing) = tables.look_up(&names)?;
        let flows = found.iter().map(|found| shown(&control, found)).collect();
        Ok::<_, ControlError>(LookedUpJson { flows, missing, applied_index: tables.applied() })
    });
    Ok(Json(looked_up.await??))
}

/// Writes labels, if the flow's revision is the one given.
pub async fn labels<C: Control>(
    State(control): State<C>,
    InPath((size, id)): InPath<(String, String)>,
    JsonBody(body): JsonBody<LabelsJson>,
) -> Answer<AppliedJson> {
    let name = parse_name(&size, &id)?;
    let labels = body.labels.into_iter().collect();
    Ok(Json(annotate(&control, &name, Revision(body.if_revision), labels, None).await?.into()))
}

/// Writes a verdict, if the flow's revision is the one given.
pub async fn verdict<C: Control>(
    State(control): State<C>,
    InPath((size, id)): InPath<(String, String)>,
    JsonBody(body): JsonBody<NewVerdictJson>,
) -> Answer<AppliedJson> {
    let name = parse_name(&size, &id)?;
    let NewVerdictJson { if_revision, action, source } = body;
    let verdict = Verdict { action: action.into(), source: source.into() };
    Ok(Json(annotate(&control, &name, Revision(if_revision), Vec::new(), Some(verdict)).await?.into()))
}

/// The table as a whole.
pub async fn stats<C: Control>(State(control): State<C>) -> Answer<StatsJson> {
    Ok(Json(StatsJson::new(&control.flows(Consistency::Local).await?)))
}

/// A flow with what the pools say of it.
pub fn shown<C: Control>(control: &C, found: &FoundFlow) -> FlowJson {
    FlowJson::new(found, control.flow_backends(&found.record))
}

fn parse_name(size: &str, id: &str) -> Result<FlowName, ControlError> {
    match size {
        "5" => Ok(FlowName::Five(parse_id(id)?)),
        "7" => Ok(FlowName::Seven(parse_id(id)?)),
        _ => Err(ControlError::Invalid(format!("{size:?} is no size of a flow's id: 5 or 7 is possible"))),
    }
}
