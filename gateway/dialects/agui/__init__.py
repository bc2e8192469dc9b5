"""AG-UI 1.0 (https://ag-ui.com/spec/1.0): a run as its events."""
