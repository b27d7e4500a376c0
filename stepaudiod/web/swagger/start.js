SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  responseInterceptor: (response) => {
    const headers = response.headers;
    if (/^audio/.test(headers["content-type"])) headers["content-disposition"] = "attachment";
    return response;
  }
});
