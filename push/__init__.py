"""Web Push: one request to one endpoint. It knows neither templates nor presence."""
