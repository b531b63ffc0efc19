"""The bus: notices by topic that reach every worker of every instance. It knows no topic; a feature publishes and subscribes."""
