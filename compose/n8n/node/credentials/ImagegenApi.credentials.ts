import type {
	IAuthenticateGeneric,
	Icon,
	ICredentialTestRequest,
	ICredentialType,
	INodeProperties,
} from 'n8n-workflow';

export class ImagegenApi implements ICredentialType {
	name = 'imagegenApi';

	displayName = 'Imagegen API';

	icon: Icon = { light: 'file:../icons/imagegen.svg', dark: 'file:../icons/imagegen.dark.svg' };

	properties: INodeProperties[] = [
		{
			displayName: 'Base URL',
			name: 'baseUrl',
			type: 'string',
			default: 'http://stable-diffusion:7860',
			placeholder: 'http://localhost:7860',
			description: 'The address of the service as n8n sees it',
			required: true,
		},
		{
			displayName: 'API Key',
			name: 'apiKey',
			type: 'string',
			typeOptions: { password: true },
			default: '',
			description: 'One of SD_API_KEY. Leave it empty if the service has no keys.',
		},
		{
			displayName: 'Webhook Secret',
			name: 'webhookSecret',
			type: 'string',
			typeOptions: { password: true },
			default: '',
			placeholder: 'whsec_...',
			description: 'SD_WEBHOOK_SECRET, by which Imagegen Trigger recognises calls of the service',
		},
	];

	authenticate: IAuthenticateGeneric = {
		type: 'generic',
		properties: { headers: { 'X-API-Key': '={{$credentials.apiKey}}' } },
	};

	test: ICredentialTestRequest = {
		request: { baseURL: '={{$credentials.baseUrl.replace(/\\/+$/, "")}}', url: '/info' },
	};
}
