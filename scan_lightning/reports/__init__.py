"""Tables and plots of rows: layouts, rows grouped with their spread over seeds, documents whose tables follow."""
