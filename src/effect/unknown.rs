//! Why a statement's text and the catalog cannot say what it writes. A value, not an error: such a
//! statement is measured by the server.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident => $label:literal,)+) => {
        /// Why a statement is measured.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum UnknownReason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl UnknownReason {
            /// All reasons.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The reason's name in metrics and in `turnstile explain`.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)+
                }
            }
        }
    };
}

impl UnknownReason {
    /// Whether such a statement may end the transaction that it runs in, if the catalog is old or knows nothing of it.
    #[must_use]
    pub const fn may_end_transaction(self) -> bool {
        matches!(self, Self::Call | Self::Do | Self::UnknownForm | Self::UnknownStatement)
    }
}

reasons! {
    /// A function that is not known to be free of writes is called.
    FunctionCall => "function_call",
    /// A view whose definition calls such a function, or a view that is written.
    View => "view",
    /// A type, domain or operator that calls such a function.
    TypeOrOperator => "type_or_operator",
    /// A cast or event trigger, which leaves no trace in a text, calls such a function.
    ImplicitCall => "implicit_call",
    /// The written relation has triggers for this event.
    Trigger => "trigger",
    /// The written relation has rewrite rules.
    Rule => "rule",
    /// A foreign key cascades from the written relation to others.
    ForeignKeyCascade => "foreign_key_cascade",
    /// A default, check, index or policy of the written relation calls a function that may write.
    Expression => "expression",
    /// The written relation is a foreign table.
    ForeignTable => "foreign_table",
    /// A part of the written relation belongs to another domain.
    MixedDomains => "mixed_domains",
    /// The written name is no relation of the catalog (temporary, new, or of the system).
    UnknownRelation => "unknown_relation",
    /// The written name stands for relations that differ in what a write of them does.
    AmbiguousRelation => "ambiguous_relation",
    /// One statement writes at several places (data-modifying WITH).
    SeveralWrites => "several_writes",
    /// TRUNCATE.
    Truncate => "truncate",
    /// Data definition, REFRESH, CREATE TABLE AS, SELECT INTO.
    Definition => "definition",
    /// EXPLAIN ANALYZE.
    Explain => "explain",
    /// DO.
    Do => "do",
    /// CALL.
    Call => "call",
    /// SQL-level EXECUTE.
    Execute => "execute",
    /// FETCH or MOVE of a cursor that is not known to be harmless.
    Cursor => "cursor",
    /// FunctionCall message.
    FunctionCallMessage => "function_call_message",
    /// Execute of a prepared statement or portal that this session did not see being made.
    UnknownStatement => "unknown_statement",
    /// A statement whose form is not known here.
    UnknownForm => "unknown_form",
    /// Longer than what is analysed.
    TooLong => "too_long",
    /// The client encoding does not allow to find the statements' ends, or to say the name of a domain.
    Encoding => "encoding",
    /// The catalog is being read again after a change.
    CatalogStale => "catalog_stale",
}
