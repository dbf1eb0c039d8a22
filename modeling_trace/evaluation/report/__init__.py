"""A comparison of systems, from measuring each to the report: what is measured, its cache, tables, findings, pages."""
